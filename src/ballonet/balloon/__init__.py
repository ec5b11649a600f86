"""What every balloon has, whoever's protocol it speaks."""
